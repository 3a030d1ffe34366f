"""The commands, one small module for each group; errors become exit codes and one readable line."""

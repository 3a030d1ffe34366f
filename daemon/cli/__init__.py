"""The commands: one small module a group. Each turns errors into exit codes and one readable line."""

"""What people drop: noticed, waited for, paired, handed to the spool, and retired once the spool has it."""

"""What people find: frames and progress while a job runs, then one entry that appears whole."""

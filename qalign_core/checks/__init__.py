"""What `doctor` looks at: the machine, the profile, its data, the packages."""

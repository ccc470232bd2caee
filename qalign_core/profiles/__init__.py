"""What a profile may say, section by section, and how its mistakes are told."""

"""Kill everything at random moments while users prompt; then have an auditor look for loss."""

"""Who did what to whom, from where and when: a log that shows it when it was changed or cut."""

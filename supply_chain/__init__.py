"""What is in the service and in the image, and whether anything bad is known of it."""

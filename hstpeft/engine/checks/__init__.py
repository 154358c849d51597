"""What is refused before the first step."""

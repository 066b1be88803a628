"""What the host must have and allow: reads its settings, and says what is wrong and the command that mends it; changes nothing."""

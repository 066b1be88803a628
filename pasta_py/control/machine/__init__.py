"""What a machine must have and allow: reads its settings, and says what is wrong and the command that mends it; changes nothing."""

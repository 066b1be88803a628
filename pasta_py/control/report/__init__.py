"""What a guest talked to, as one HTML page that anyone can read: made from a flow log."""

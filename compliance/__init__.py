"""What may not be sent: signature, opt-out, hours, words."""

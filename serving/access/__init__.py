"""Who may ask: keys, what they allow, and the certificate."""

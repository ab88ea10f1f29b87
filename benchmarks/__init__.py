"""How fast messages are received and handled, measured side by side on one machine."""

"""How the small default base network was made."""

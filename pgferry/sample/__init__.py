"""The sample application's database: the OSRS Tool Hub, a price tracker of a game's items."""

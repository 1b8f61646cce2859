"""The texts that the sample is made of: quotes, several scripts, line breaks and backslashes among plain sentences."""

from __future__ import annotations

MATERIALS = (
    *("Bronze", "Iron", "Steel", "Mithril", "Adamant", "Rune", "Dragon", "Abyssal", "Crystal", "Saradomin's"),
    *("Guthix", "Zamorak's", "Ahrim's", "Twisted", "Ancient", "Barrelchest", "Magic", "Yew", "Maple", "Bark's"),
)
THINGS = (
    *("whip", "Scimitar", "full helm", "platebody", "2h sword", "bolts", "arrow", "rune", "potion", "godsword"),
    *("d'hide body", "Logs", "ore", "bar", "seed", "shark", "Brew", "amulet (t)", "teleport", "crossbow"),
)
EXAMINE = (
    "A weapon from the Abyss.",
    "It's a bird's nest; \"hand-made\", or so they say.",
    "Used by Ahrim the Blighted — très élégant.",
    "Un cœur d'ombre… それは古い。",
    "",
    "Two lines:\nthe second one is shorter.",
    "A backslash \\ and a tab\t, as typed by a player.",
    "Снаряжение для битвы",
    "Worth 100% of its weight; see the 'Grand Exchange'.",
    "🐉 Forged by dragons.",
)
OWNERS = ("Zezima", "lynx titan", "B0aty", "Óðinn", "O'Malley", "xX_Flipper_Xx", "鉄の男", "Iron 'Hyger'")
SOURCES = ("wiki-5m", "wiki-1h", "RuneLite", "runelite-live", "Manual entry", "GE tracker", "import/2021", "café-bot")
NOTES = (
    "Sold within a minute.",
    "Bought slowly overnight, the margin shrank by morning.",
    "Price spiked after the update; don't chase it.",
    'The wiki says "unstable".',
    "Überraschend hohes Volumen am Wochenende.",
    "Le marché était calme, très calme.",
    "Offer changed twice; see the log of that day.",
    "Limit reached: waited four hours for the next batch.",
    "Checked with a single item first, as one should.",
    "Margin checked at 3 a.m., likely an outlier.",
    "日本のサーバーから輸入した記録。",
    "Цена проверена вручную.",
    "Bulk order from the clan; paid in full.",
    "Half of the order was cancelled.",
    "C:\\osrs\\exports\\prices.csv, line 42.",
    "100% sure about this one.",
    "Tab\tseparated, from an old export.",
    "First line.\nSecond line.",
    "The buyer's name isn't known.",
    "O'Malley asked for the receipt.",
    "Merch clan activity suspected on this item today.",
    "Nothing special.",
    "Flip done in under ten minutes, twice in a row.",
    "Taxed since December; net margin is lower.",
    "🔥 hot item 🔥",
    "(no comment)",
    "Reprice tomorrow, before the weekly reset at noon.",
    "Averaged over five minutes; the raw data were not kept.",
    "Compare with the alchemy value before the next buy.",
    "Kept as a long-term investment for the league.",
    "Undercut by one coin; so it goes.",
    "Value entered by hand; it may be off by one.",
)

"""Records → one self-contained HTML page."""

"""Published papers, reproduced: one study a file, each a frozen dataclass; `robustscape study` runs them."""

"""Speed and memory, measured: one bench a file, each a frozen dataclass; `robustscape bench` runs them."""

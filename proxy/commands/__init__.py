"""The commands that write: the doors, the environment behind them, keys and wallet entries."""

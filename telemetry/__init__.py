"""What operators see: metrics (`metrics.py`) and logs (`logs.py`). Knows no other room."""

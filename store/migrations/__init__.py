"""Numbered SQL: `NNNN_pre_what.sql` runs before new code, `NNNN_post_what.sql` after it."""

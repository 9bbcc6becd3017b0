"""Rows of finished runs, and the tables and statistics made from them. Reads records alone."""

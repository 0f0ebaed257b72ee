"""Regions: what is shipped between them, which of them owns a namespace, and how they agree again."""

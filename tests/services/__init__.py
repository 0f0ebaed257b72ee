"""Real servers for tests: installed from the distribution's packages, started on free ports with private data, stopped by pid."""

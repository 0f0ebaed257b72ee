"""Client libraries: see README.md. Nothing here imports a server package."""

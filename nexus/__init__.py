"""The HTTP gateway of the Nexus protocol: see README.md."""

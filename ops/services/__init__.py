"""Real servers for tests, chaos and bench: installed from the distribution's packages, started on free ports with private data,
stopped by pid.

    processes.py  packages, private folders, free ports, a process that is ended by its pid
    postgres.py, mariadb.py, cassandra.py, etcd.py   one server each
    databases.py  an engine by its name, and fresh databases on it
    proxy.py      a TCP link that loses, delays or cuts on command
"""

"""What this machine has and lacks for the lab. One check is one function; none uses the network or changes anything."""

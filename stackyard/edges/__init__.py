"""Everything with a side effect: disk, network, environment, programs, terminal."""

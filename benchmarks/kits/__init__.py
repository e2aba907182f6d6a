"""Programs that measure on a device, where leafport is not: each is copied into the kit that it is for."""

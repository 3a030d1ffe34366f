"""How the hardware is made to compute the method: device, precision, convolutions, graphs, tiles."""

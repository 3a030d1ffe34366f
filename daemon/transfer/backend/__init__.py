"""How the hardware is made to compute the method: device, precision, convolutions, compilation, tiles."""

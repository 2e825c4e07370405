"""snnrun: train spiking neural networks by backpropagation from the command line."""

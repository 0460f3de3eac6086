"""Templates, style and script of the pages; a package so that wheels carry them."""

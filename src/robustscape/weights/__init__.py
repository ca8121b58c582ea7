"""Weight space: which parameters, norms and directions; one weight perturbation a file."""

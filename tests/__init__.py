"""The tests; they mirror hf_xmc/."""

"""The compact training and evaluation core: trusts nothing."""

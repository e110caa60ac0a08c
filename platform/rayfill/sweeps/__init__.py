"""Many runs planned, trained side by side and compared."""

"""U-Nets and their kin, one file each."""

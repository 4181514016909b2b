"""What makes two runs differ, and how to make them not: switches and seeds, and a doctor that finds causes."""

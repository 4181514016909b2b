"""A report or a manifest as something to read: text for people, JSON for programs, SARIF and JUnit for CI."""

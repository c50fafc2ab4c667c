"""What the command lines of `tools` call: launching, prediction, the doctor."""

"""The commands: one file each, with a function of its name; a command of two words lies in a folder of the first."""

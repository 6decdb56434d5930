"""The devices that files are made for, one record a module."""

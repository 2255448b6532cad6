"""Measurements that anyone can repeat, one module a figure."""

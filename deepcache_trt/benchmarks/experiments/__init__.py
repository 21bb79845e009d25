"""The experiments of the papers on caching, each one command: `deepcache-trt experiment NAME`.

An experiment declares what it varies and what it shows (`declared`, one file each). What all have in common is drawing
into a folder that a killed run goes on filling (`drawing`), measuring the pictures in it (`measure`) and reporting.
"""

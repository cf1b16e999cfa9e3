from driver_sim.cli import main

main(prog_name="python -m driver_sim")

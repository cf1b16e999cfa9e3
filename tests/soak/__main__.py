from tests.soak.messy import main

main()

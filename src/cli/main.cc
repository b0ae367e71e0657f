#include "cli/commands.h"

int main(int argc, char** argv) { return rhetor::run_cli(argc, argv); }

# Adds up the summary lines of `cargo test` and prints the sum as the last line.
#
#     awk -v status=EXIT_CODE_OF_CARGO -f test-summary.awk LOG
#
# Exits with the code of cargo; with 1 as well when a test failed, or when none ran at all.

/^test result: / {
    for (field = 2; field <= NF; field++) {
        if ($field == "passed;") passed += $(field - 1)
        if ($field == "failed;") failed += $(field - 1)
        if ($field == "ignored;") skipped += $(field - 1)
    }
}

END {
    if (status == "") status = 1
    if (passed + failed == 0) print "no test ran"
    if (status == 0 && (failed > 0 || passed == 0)) status = 1
    printf "%d passed, %d failed%s\n", passed, failed, (skipped > 0 ? ", " skipped " skipped" : "")
    exit status
}

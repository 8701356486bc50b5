# Sums up what the fault suite printed: a table with one line per scenario, and what was measured. The last line tells
# how many messages were lost in all.
#
#     awk -v status=EXIT_CODE_OF_CARGO -f soak-summary.awk LOG
#
# Reads lines `SCENARIO: sent N executed N duplicated N lost N parked N`; cases of one scenario (`SCENARIO:CASE`) are
# added up. Exits with the code of cargo; with 1 as well when a message was lost or no scenario ran.

/: sent [0-9]+ executed [0-9]+ duplicated [0-9]+ lost [0-9]+ parked [0-9]+$/ {
    line = $0
    sub(/^test [^ ]+ \.\.\. /, "", line)
    name = line
    sub(/: sent [0-9].*$/, "", name)
    sub(/:[0-9]+$/, "", name)
    if (!(name in cases)) order[++scenarios] = name
    cases[name]++
    count = split(line, words, " ")
    sent[name] += words[count - 8]
    executed[name] += words[count - 6]
    duplicated[name] += words[count - 4]
    lost[name] += words[count - 2]
    parked[name] += words[count]
    if (length(name) > width) width = length(name)
    next
}

# What was measured on the way, shown below the table.
/ (ms|kills|deaths)/ && /: / && !/^(20|thread|note|---)/ {
    line = $0
    sub(/^test [^ ]+ \.\.\. /, "", line)
    figures[++measured] = line
}

END {
    if (status == "") status = 1
    heading = sprintf("%-" width "s %6s %8s %8s %10s %6s %6s", "scenario", "cases", "sent", "executed", "duplicated", "lost", "parked")
    print ""
    print heading
    for (number = 1; number <= scenarios; number++) {
        name = order[number]
        printf "%-" width "s %6d %8d %8d %10d %6d %6d\n", name, cases[name], sent[name], executed[name], duplicated[name], lost[name], parked[name]
        all_cases += cases[name]
        all_lost += lost[name]
    }
    print ""
    for (number = 1; number <= measured; number++) print figures[number]
    if (scenarios == 0) print "no scenario ran"
    if (status == 0 && (scenarios == 0 || all_lost > 0)) status = 1
    printf "\n%d scenarios in %d cases, %d messages lost\n", scenarios, all_cases, all_lost
    exit status
}

# Objects, arrays and strings by the hundred thousand.
[range(0; 100000) | {id: ., name: "item \(.)", tags: [. % 7, . % 11 | tostring]}]
| group_by(.tags[0])
| map({key: .[0].tags[0], items: length, names: (map(.name) | join(",") | length)})

from robustscape.report.layout import GAP, blocks


def test_closed_form_what_is_left_goes_where_the_most_lines_would_be():
    (found,) = blocks([4, 10, 10], [4, 100, 50], width=70 + 2 * GAP)
    assert found == {0: 4, 1: 44, 2: 22}
    (found,) = blocks([4, 10], [4, 12], width=200)
    assert found == {0: 4, 1: 12}


def test_closed_form_columns_without_room_follow_below_and_repeat_the_first():
    found = blocks([5, 10, 10, 10], [5, 10, 10, 10], width=5 + 20 + 2 * GAP)
    assert found == [{0: 5, 1: 10, 2: 10}, {0: 5, 3: 10}]
    found = blocks([5, 10, 10, 10], [5, 10, 10, 10], width=5 + 20 + 2 * GAP, keys=2)
    assert found == [{0: 5, 1: 10, 2: 10}, {0: 5, 1: 10, 3: 10}]


def test_contract_two_columns_stand_beside_each_other_however_narrow_it_is():
    assert blocks([30, 20], [40, 20], width=10) == [{0: 30, 1: 20}]
    assert blocks([30], [40], width=10) == [{0: 30}]
